"""The journal: operations, and what each of them changed, written in the transaction of every change."""
