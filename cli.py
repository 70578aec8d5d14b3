try:
    from convnet_edge.__main__ import main
except KeyboardInterrupt:  # Ctrl-C before main can listen: nothing has begun, nothing to explain
    raise SystemExit(130) from None

main()
