"""A grpcio server that answers Check with a constant. Prints its address, serves until it is terminated."""

from concurrent.futures import ThreadPoolExecutor

import grpc
from envoy.service.auth.v3.external_auth_pb2 import CheckRequest, CheckResponse


def main() -> None:
    answer = CheckResponse()
    answer.status.code = 0
    answer.ok_response.SetInParent()
    handler = grpc.unary_unary_rpc_method_handler(
        lambda request, context: answer, CheckRequest.FromString, CheckResponse.SerializeToString
    )
    server = grpc.server(ThreadPoolExecutor(4))
    service = "envoy.service.auth.v3.Authorization"
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(service, {"Check": handler}),))
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    print(f"127.0.0.1:{port}", flush=True)
    server.wait_for_termination()


if __name__ == "__main__":
    main()
