from convnet_edge.cli import main

main()
