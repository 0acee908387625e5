"""A model server for tests, with the request formats of TensorFlow Serving.

The arguments are NAME=DIRECTORY for each model. The ports of the REST and gRPC APIs are
printed.

References:
    TensorFlow Serving, RESTful API: Predict API, and JSON mapping, encoding binary values.
    tensorflow_serving/apis/prediction_service.proto.
"""

import base64
import concurrent.futures
import http.server
import json
import re
import sys

import grpc
import tensorflow as tf
from tensorflow_serving.apis import predict_pb2, prediction_service_pb2_grpc

MODELS = {}


def decode(value):
    """Decodes {"b64": ...} at any depth of a JSON value."""
    if isinstance(value, list):
        return [decode(element) for element in value]
    if isinstance(value, dict):
        return base64.b64decode(value["b64"], validate=True)
    return value


def predict(name, body):
    """Returns the response to a body of the Predict API in row format."""
    signature = MODELS[name].signatures[body.pop("signature_name", "serving_default")]
    rows = body.pop("instances")
    assert not body
    specs = signature.structured_input_signature[1]
    inputs = {
        key: tf.constant([decode(row[key]) for row in rows], specs[key].dtype)
        for key in rows[0]
    }
    outputs = {key: value.numpy().tolist() for key, value in signature(**inputs).items()}
    columns = zip(*outputs.values(), strict=True)
    return {"predictions": [dict(zip(outputs, row, strict=True)) for row in columns]}


class Rest(http.server.BaseHTTPRequestHandler):
    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        name = re.fullmatch(r"/v1/models/(\w+):predict", self.path)[1]
        content = json.dumps(predict(name, body), default=bytes.decode).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_):
        pass


class Grpc(prediction_service_pb2_grpc.PredictionServiceServicer):
    def Predict(self, request, context):
        spec = request.model_spec
        inputs = {
            name: tf.constant(tf.make_ndarray(value))
            for name, value in request.inputs.items()
        }
        outputs = MODELS[spec.name].signatures[spec.signature_name](**inputs)
        protos = {name: tf.make_tensor_proto(value) for name, value in outputs.items()}
        return predict_pb2.PredictResponse(outputs=protos)


def main():
    for argument in sys.argv[1:]:
        name, folder = argument.split("=", 1)
        MODELS[name] = tf.saved_model.load(folder)
    rest = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Rest)
    server = grpc.server(concurrent.futures.ThreadPoolExecutor(2))
    prediction_service_pb2_grpc.add_PredictionServiceServicer_to_server(Grpc(), server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    print(json.dumps({"rest": rest.server_address[1], "grpc": port}), flush=True)
    rest.serve_forever()


if __name__ == "__main__":
    main()
