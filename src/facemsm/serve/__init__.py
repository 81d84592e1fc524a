"""The web page and its HTTP API, for one machine. Needs the extra ``serve``."""
