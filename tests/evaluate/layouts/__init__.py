"""Writers of tiny data sets in the true layouts."""
