from ts.handler_utils.utils import send_intermediate_predict_response


def handle(data, context):
    if type(data) is list:
        for index in range(2):
            send_intermediate_predict_response(
                [f"p{index} "],
                context.request_ids,
                "Intermediate Prediction success",
                200,
                context,
            )
        return ["end"]
