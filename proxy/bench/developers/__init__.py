"""`tandem bench engine | relay | routing`: benchmarks for the development of Tandem."""
