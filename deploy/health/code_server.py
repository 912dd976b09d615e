"""Health of a code server: has it loaded its definitions? An open port alone does not say so.

After an import error `dagster code-server start` keeps listening and `dagster api grpc-health-check` passes.
This asks for the repositories instead, and prints the error of a location that did not load. It speaks gRPC
without importing Dagster, which takes a second of CPU and would be spent every few seconds.
"""

import json
import sys

import grpc


def main(port: int = 4000) -> int:
    """0 when definitions are loaded; 1 with the reason on standard output."""
    with grpc.insecure_channel(f"localhost:{port}") as channel:
        ask = channel.unary_unary("/api.DagsterApi/ListRepositories")
        try:
            # The request is an empty message. The answer holds one string field, a JSON document.
            answer = ask(b"", timeout=15)
        except grpc.RpcError as error:
            print(f"the code server does not answer on port {port}: {error.details()}")  # type: ignore[attr-defined]
            return 1
    document = json.loads(answer[answer.index(b"{") :])
    if document["__class__"] != "SerializableErrorInfo":
        return 0
    while document.get("cause"):
        document = document["cause"]
    print(
        f"the code location does not load: {document['message'].strip()}\n{''.join(document['stack'][-2:])}"
    )
    return 1


if __name__ == "__main__":
    sys.exit(main())
