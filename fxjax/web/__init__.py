"""The page: two photos in, the first with the expression of the second out, in a browser."""
