"""Many photos: which they are, what is done to each, and where it goes on."""
