#!/bin/sh
# What a container runs. Nothing, or "serve": every archive of the model store, or what
# /home/model-server/config.properties says where that is mounted. "torchserve ..." and
# "flambeau ...": that command, in the foreground, since the container ends with it. Options alone
# go to "flambeau start". Anything else is run as it is.
set -eu
home=/home/model-server

serve() {
    if [ -f "$home/config.properties" ]; then
        exec torchserve --start --foreground --ts-config "$home/config.properties" \
            --disable-token-auth "$@"
    fi
    exec flambeau start --model-store "$home/model-store" --models all "$@"
}

case "${1:-serve}" in
    serve)
        [ $# -eq 0 ] || shift
        serve "$@"
        ;;
    -*)
        exec flambeau start --model-store "$home/model-store" "$@"
        ;;
    torchserve)
        shift
        case " $* " in
            *" --stop "* | *" --version "* | *" -v "* | *" --help "* | *" -h "* | *" --foreground "*)
                exec torchserve "$@"
                ;;
        esac
        exec torchserve --foreground "$@"
        ;;
    *)
        exec "$@"
        ;;
esac
