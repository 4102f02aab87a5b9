"""From an item of a data set to what an encoder is fed, and what comes out of it."""
