"""What `make proto` writes; nothing here is written by hand."""
