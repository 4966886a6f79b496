"""The database: tables never leave this package."""
