"""`tandem bench engine | relay | routing`: benchmarks for developers of Tandem."""
