"""HL7 v2, both ways: orders and patients come in, status messages go out."""
