"""Speak DICOM in both directions: the network, the data sets, the services we offer and those we use."""
