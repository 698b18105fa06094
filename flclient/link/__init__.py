"""What shapes the path between a client and its server: processes of their own, told what to do line by line.

`kernel` and `relay` are the two layers; both speak `protocol` on standard input and output, `shaper` is who asks them.
"""
