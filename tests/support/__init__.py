"""What the tests share: real daemons in folders of their own, and clients for them."""
