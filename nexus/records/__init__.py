"""What every record type shares: types of fields, errors, the table's codec and statements, pages, handlers.

It knows no capability. Clients import ``fields`` and ``errors`` of it; the rest belongs to the daemon.
"""
