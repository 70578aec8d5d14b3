from convnet_edge.commands.app import main

main()
