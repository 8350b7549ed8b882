"""The processes that serve: one, several behind one pair of ports, or Envoy's."""
