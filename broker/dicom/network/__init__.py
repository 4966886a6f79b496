"""Carry DICOM messages between peers (PS3.7, PS3.8, PS3.15); this package knows no service of its own."""
