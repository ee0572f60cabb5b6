"""The nouns of the ledger on the command line."""
