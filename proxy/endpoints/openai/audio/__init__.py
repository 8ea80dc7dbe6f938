"""OpenAI's audio: speech, transcriptions, translations, voices."""
