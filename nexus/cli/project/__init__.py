"""What a file says that services and VM records are to be: its format, the difference to what is, and the way there.

All of it is on the client's side; the daemon sees ordinary commands.
"""
