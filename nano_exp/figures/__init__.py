"""`nano-exp plot`: pictures of a sweep for papers and slides, drawn by matplotlib."""
