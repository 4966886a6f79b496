"""Worklist Broker: orders in, worklists out, images routed by the order behind them."""

__version__ = "0.1.0"
