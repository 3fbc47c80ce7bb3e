"""What clients of plain HTTP need of TLS: nothing."""

import ssl

NO_TLS = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
"""The `verify` of clients that only use plain HTTP. By default each new client of httpx loads all authorities of the
internet, which takes 30 ms of CPU.
"""
