"""A model server for tests, with the request formats of TensorFlow Serving.

It runs in a separate process and must not import this project:

    python -I tests/model_server.py NAME=DIRECTORY ...

It prints the ports of its REST and gRPC APIs. It rejects requests that the documentation of
TensorFlow Serving does not allow.

References:
    TensorFlow Serving, RESTful API: Predict API, and JSON mapping, encoding binary values.
    tensorflow_serving/apis/prediction_service.proto.
"""

import importlib.machinery
import sys

FORBIDDEN = ("skincnn", "tfds_ham10000", "keras")


class ForbiddenFinder:
    """Blocks imports of this project and of Keras, which TensorFlow tries to import."""

    def find_spec(self, name, *_):
        if name.split(".")[0] in FORBIDDEN:
            return importlib.machinery.ModuleSpec(name, self, origin="nowhere/x.py")
        return None

    def create_module(self, spec):
        raise ImportError(f"{spec.name} is forbidden")

    def exec_module(self, module):
        raise ImportError(f"{module} is forbidden")


sys.meta_path.insert(0, ForbiddenFinder())

import base64  # noqa: E402
import concurrent.futures  # noqa: E402
import http.server  # noqa: E402
import json  # noqa: E402
import re  # noqa: E402

import grpc  # noqa: E402
import tensorflow as tf  # noqa: E402
from tensorflow_serving.apis import predict_pb2, prediction_service_pb2_grpc  # noqa: E402

MODELS = {}


def find(name, signature_name):
    if name not in MODELS:
        raise ValueError(f"Servable not found for request: {name}")
    signatures = MODELS[name].signatures
    key = signature_name or "serving_default"
    if key not in signatures:
        raise ValueError(f"Serving signature key {key} not found.")
    return signatures[key]


def specs_of(signature):
    return signature.structured_input_signature[1]


def call(signature, inputs):
    """Calls a signature; the inputs must have its names, types and shapes."""
    specs = specs_of(signature)
    if inputs.keys() != specs.keys():
        raise ValueError(
            "input keys do not match the signature: expected "
            f"{sorted(specs)}, received {sorted(inputs)}"
        )
    for name, value in inputs.items():
        if value.dtype != specs[name].dtype:
            raise ValueError(f"{name} is {value.dtype}, expected {specs[name].dtype}")
        if not specs[name].shape.is_compatible_with(value.shape):
            raise ValueError(f"{name} has shape {value.shape}")
    return {name: value.numpy() for name, value in signature(**inputs).items()}


def decode(value, dtype):
    """Decodes {"b64": ...}, which is allowed only for strings."""
    if isinstance(value, list):
        return [decode(element, dtype) for element in value]
    if isinstance(value, dict):
        if set(value) != {"b64"} or dtype != tf.string:
            raise ValueError(f"JSON object is not a base64 string of a {dtype} tensor")
        return base64.b64decode(value["b64"], validate=True)
    if isinstance(value, str) != (dtype == tf.string):
        raise ValueError(f"JSON value {value!r} is not of type {dtype}")
    return value


def tensors(columns, specs):
    """Converts inputs with the names of the signature to tensors."""
    unknown = sorted(columns.keys() - specs.keys())
    if unknown:
        raise ValueError(f"unknown inputs {unknown}, expected {sorted(specs)}")
    return {
        name: tf.constant(decode(value, specs[name].dtype), specs[name].dtype)
        for name, value in columns.items()
    }


def encode(value):
    """Converts an output to JSON."""
    if isinstance(value, list):
        return [encode(element) for element in value]
    return value.decode() if isinstance(value, bytes) else value


def predict(name, body):
    """Returns the response to a body of the Predict API in row format."""
    if body.keys() - {"signature_name", "instances"}:
        raise ValueError("Request has unknown keys")
    signature = find(name, body.get("signature_name"))
    rows = body["instances"]
    columns = {key: [row[key] for row in rows] for key in rows[0]}
    outputs = call(signature, tensors(columns, specs_of(signature)))
    encoded = {key: encode(value.tolist()) for key, value in outputs.items()}
    if {len(value) for value in encoded.values()} != {len(rows)}:
        raise ValueError("an output has another batch size than the instances")
    return {
        "predictions": [
            {key: encoded[key][index] for key in encoded} for index in range(len(rows))
        ]
    }


class Rest(http.server.BaseHTTPRequestHandler):
    def do_POST(self):
        matched = re.fullmatch(r"/v1/models/(\w+)(/versions/1)?:predict", self.path)
        body = self.rfile.read(int(self.headers["Content-Length"]))
        status, response = 404, {"error": f"Malformed request: {self.path}"}
        if matched:
            try:
                status, response = 200, predict(matched[1], json.loads(body))
            except Exception as error:
                status, response = 400, {"error": str(error)}
        content = json.dumps(response).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_):
        pass


class Grpc(prediction_service_pb2_grpc.PredictionServiceServicer):
    def Predict(self, request, context):
        spec = request.model_spec
        try:
            signature = find(spec.name, spec.signature_name)
            inputs = {
                name: tf.constant(tf.make_ndarray(value))
                for name, value in request.inputs.items()
            }
            outputs = call(signature, inputs)
        except Exception as error:
            context.abort(grpc.StatusCode.INVALID_ARGUMENT, str(error))
        response = predict_pb2.PredictResponse(
            outputs={
                name: tf.make_tensor_proto(value)
                for name, value in outputs.items()
                if not request.output_filter or name in request.output_filter
            }
        )
        response.model_spec.CopyFrom(spec)
        return response


def main():
    for argument in sys.argv[1:]:
        name, folder = argument.split("=", 1)
        MODELS[name] = tf.saved_model.load(folder)
    rest = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Rest)
    server = grpc.server(concurrent.futures.ThreadPoolExecutor(2))
    prediction_service_pb2_grpc.add_PredictionServiceServicer_to_server(Grpc(), server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    for name in FORBIDDEN:
        if name in sys.modules:
            raise ImportError(
                f"{name} was imported: a SavedModel must need TensorFlow only"
            )
    print(json.dumps({"rest": rest.server_address[1], "grpc": port}), flush=True)
    rest.serve_forever()


if __name__ == "__main__":
    main()
