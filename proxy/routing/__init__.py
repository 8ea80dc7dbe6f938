"""Routing: requirements of a request, candidates, choice by speed, and fallback."""
