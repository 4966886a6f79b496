"""Service class providers: parse, call the workflow, answer. No rule of their own."""
