"""One script a method; the file name is its name on the command line.  A method imports from ssl_bench only."""
