"""Keep files durably: the store of received objects, and the folder destination."""
