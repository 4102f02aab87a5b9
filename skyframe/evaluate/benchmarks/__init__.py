"""One file per data set: what an encoder is fed, and the truth it is scored against."""
