"""A fleet: clients keep their rows, and answer a server with losses (DeComFL, arXiv 2405.15861).

The server takes the steps of an ordinary run, whose loss it asks for. It sends what a client lacks
of the run's journal. Flower carries the messages; only server.py and client.py import it.
"""
