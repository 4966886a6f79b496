"""The dashboard and its JSON twin; reads through the Reports port, acts through workflow operations."""
