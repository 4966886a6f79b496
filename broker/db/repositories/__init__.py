"""Core statements behind the repository ports; one file per port."""
