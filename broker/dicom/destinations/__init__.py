"""Send to DICOM peers: destination plug-ins, each a service class user (PS3.4)."""
