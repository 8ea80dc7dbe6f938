"""Facts for `tandem doctor` about the engines, beside those that a backend reports."""
