"""The controller: reads a lab and a playbook, drives the hosts over SSH, and reports. Needs no flwr, torch or grpc."""
