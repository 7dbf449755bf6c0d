"""The gRPC front: one seam, two servers (native and grpcio), and the only place that knows gRPC status codes."""
