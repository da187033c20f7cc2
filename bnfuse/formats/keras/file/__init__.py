"""The bytes of a Keras file: zip, HDF5 and JSON, read without following anything out of it."""
