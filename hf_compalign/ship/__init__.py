"""What is shipped: a file that is small and still answers like the reference."""
