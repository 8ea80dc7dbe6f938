"""`tandem bench`: measurements side by side in one run, as ratios that hold on a noisy machine."""
