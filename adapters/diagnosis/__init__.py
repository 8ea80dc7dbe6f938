"""What `tandem doctor` finds out about the engines, beside what a backend reports."""
