"""What is true: pure rules and tables, standard library only."""
