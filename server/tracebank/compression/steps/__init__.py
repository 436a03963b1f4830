"""The steps of the compressor, one module each."""
