"""A client's side of an experiment: holds the stream to the server and hands messages to a Flower ClientApp."""
