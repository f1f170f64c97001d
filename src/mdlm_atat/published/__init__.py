"""Models that others have published, as models of ours: `read_published` tells what a folder or file holds and reads
it; a module for each family of networks knows its weights."""
