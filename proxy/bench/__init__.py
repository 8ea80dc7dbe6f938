"""`tandem bench`: side-by-side measurements in one run, compared as ratios."""
