"""The gRPC front: one seam, two servers (asyncio and grpcio), and the only place that knows gRPC status codes."""
