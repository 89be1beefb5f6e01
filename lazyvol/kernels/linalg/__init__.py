"""Matrix products, eigenvectors and trees of stacks, in blocks of bounded memory."""
