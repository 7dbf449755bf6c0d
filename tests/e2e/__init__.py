"""The whole, with a real Envoy in front: what a client, an upstream and an operator see."""
